library(shiny)

ui <- fluidPage(
  theme = bslib::bs_theme(version = 5, primary = "#b4541a"),
  title = "Old Faithful",
  div(
    class = "container py-4", style = "max-width: 60rem",
    h1("Old Faithful"),
    p(class = "text-muted", "Minutes between 272 eruptions of the geyser in Yellowstone National Park."),
    textOutput("hello", container = p),
    fluidRow(
      column(
        4,
        sliderInput("bins", "Number of bins", min = 4, max = 50, value = 18),
        radioButtons("after", "Show the waits after", c("every eruption", "short ones", "long ones"))
      ),
      column(8, plotOutput("plot", height = "20rem"))
    ),
    div(class = "lead mt-3", textOutput("summary", inline = TRUE))
  )
)

server <- function(input, output, session) {
  waits <- reactive(switch(input$after,
    "short ones" = faithful$waiting[faithful$eruptions < 3],
    "long ones" = faithful$waiting[faithful$eruptions >= 3],
    faithful$waiting
  ))

  # Who is logged in; nobody where no login is needed.
  output$hello <- renderText(if (!is.null(session$user)) sprintf("Hello, %s.", session$user))

  output$plot <- renderPlot({
    par(mar = c(4, 4, 1, 1))
    hist(
      waits(),
      breaks = seq(40, 100, length.out = input$bins + 1), col = "#e2a06d", border = "white",
      main = NULL, xlab = "Minutes until the next eruption", ylab = "Eruptions", las = 1
    )
    abline(v = mean(waits()), col = "#7a3510", lwd = 2)
  })

  output$summary <- renderText(sprintf(
    "%d waits in %d bins, %.1f minutes on average.", length(waits()), input$bins, mean(waits())
  ))
}

shinyApp(ui, server)
